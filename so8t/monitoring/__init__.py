"""What is watched after a release: are served requests still like the calibration rows?"""
