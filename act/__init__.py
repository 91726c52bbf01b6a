import logging

# LeRobot tries to load torchcodec and prints six tracebacks where the system lacks its FFmpeg. Here videos
# are decoded with PyAV.
logging.getLogger("lerobot.utils.import_utils").setLevel(logging.ERROR)
