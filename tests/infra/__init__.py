"""Tests of images, cloud and their documents."""
