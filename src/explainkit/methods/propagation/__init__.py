"""Methods that replace the gradients of operators by propagation rules."""
