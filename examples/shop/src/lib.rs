//! Six services of a shop that lose nothing: the main job of the demo.
