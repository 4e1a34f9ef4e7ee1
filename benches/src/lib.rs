//! Measurements of Kiln. The code is in `benches/`, figures and method in `README.md`.
