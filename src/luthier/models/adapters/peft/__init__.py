"""Adapters made of PEFT's layers, in PEFT's format."""
