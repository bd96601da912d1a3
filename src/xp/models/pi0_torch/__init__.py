"""pi0 and pi0.5 in torch: LeRobot's modules at any size, between xp's way in and out of a pi0, in openpi's folders."""
