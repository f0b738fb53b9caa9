"""The commands of zmsd besides run and demo."""
