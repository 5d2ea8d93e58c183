"""Where things are found: a Kademlia machine without sockets or clocks."""
