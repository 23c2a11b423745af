"""The network, its loss, its optimizer."""
