"""From score files to a card: temperature, fail-closed thresholds, a certificate or a refusal."""
