//! Fuzz targets with corpus replay.
