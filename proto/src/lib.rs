//! How it is spelled on the wire: messages, generated code, conversion both ways
