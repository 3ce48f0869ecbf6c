"""Trained models for other programs, and other programs' models for Lucida."""
