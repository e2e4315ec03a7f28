//! The embedded durable engine of Postrider.
