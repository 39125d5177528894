"""One click script per DVC stage; each knows paths and flags, the library knows neither."""
