"""NetworkManager's side of QuicEther: a VPN plugin beside the service."""
