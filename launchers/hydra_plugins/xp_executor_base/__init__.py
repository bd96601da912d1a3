"""What launchers over an executor share."""
