//! Who works: session with the driver, task pool
