"""What the images are made of; tests/images builds and checks them."""
