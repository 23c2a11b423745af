"""What goes in and out: files written whole, files of others checked, texts encoded for each output."""
