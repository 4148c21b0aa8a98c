//! The hard schedules, by name.

/// One named schedule: what it is called, and what happens.
#[derive(Debug)]
pub struct Schedule {
    pub name: &'static str,
    /// # Errors
    /// What did not end as stated.
    pub run: fn() -> Result<(), String>,
}

/// All of them.
pub const ALL: &[Schedule] = &[];
