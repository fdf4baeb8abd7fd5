//! Who asks. The one source of a task's owner; whatever is ever to tell callers apart plugs in here.

/// Somebody who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    /// The name under which their tasks are kept.
    pub(super) owner: String,
}

impl Caller {
    /// Whoever it is: nobody is asked for a name yet, so all tasks belong to the same one. Credentials are
    /// not looked at: old clients send made-up ones where they were given none.
    pub(super) fn anonymous() -> Self {
        Self { owner: "anonymous".to_owned() }
    }
}
