"""QuicEther: one private, encrypted IP network out of many machines."""

__version__ = "0.1.0"
