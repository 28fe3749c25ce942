"""The images, built on a substitute base, started, and checked: `make images`."""
