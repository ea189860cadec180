"""Methods that put a rule in place of operators' gradients on the way back."""
