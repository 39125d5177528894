"""Tools of the house: what the machine lacks, generated docs."""
