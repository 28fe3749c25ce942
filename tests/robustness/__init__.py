"""Tests of damage, attacks, load and kills."""
