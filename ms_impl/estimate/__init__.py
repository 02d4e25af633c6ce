"""What training a model needs, on paper: parameters trained and memory of a device. No framework is imported here."""
