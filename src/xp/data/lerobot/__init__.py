"""LeRobot datasets (v3.0 written; v2.1 and v3.0 read): tables, pictures and videos, reading, writing, exporting."""
