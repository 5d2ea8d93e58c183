"""The machine we run on: the desired state of the device and whoever applies it."""
