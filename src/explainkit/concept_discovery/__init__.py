"""What a layer has learned: its activations, factorized into concepts."""
