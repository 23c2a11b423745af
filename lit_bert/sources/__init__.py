"""Where weights come from: the Hub, a folder, a package, a checkpoint; what each may say."""
