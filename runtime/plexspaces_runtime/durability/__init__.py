"""Actors that survive the death of their node: journal, checkpoint, replay."""
