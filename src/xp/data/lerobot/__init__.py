"""LeRobot datasets (v3.0 written; v2.0 to v3.0 read): tables, pictures and videos, reading, writing, exporting."""
