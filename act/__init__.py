import logging

# LeRobot asks for torchcodec on every occasion and, where the system lacks its FFmpeg, prints six tracebacks.
# Here videos are decoded with PyAV.
logging.getLogger("lerobot.utils.import_utils").setLevel(logging.ERROR)
