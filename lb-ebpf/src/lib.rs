//! Weir's packet pipeline.
#![no_std]
