"""The network of pi0 and pi0.5: SigLIP, two Gemma experts that attend to each other, and the flow on actions."""
