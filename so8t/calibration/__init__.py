"""From score files to a card: temperature, fail-closed thresholds, a certificate that can refuse, and the gate."""
