"""Facial-expression recognition on explainkit: data, drawn faces, two networks, commands."""
