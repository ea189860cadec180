"""Facial-expression recognition on explainkit: data, synthetic faces, two networks, commands."""
