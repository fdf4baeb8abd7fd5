//! TES in, TES out.
