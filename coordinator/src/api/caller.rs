//! Who asks. The one source of a task's owner; whatever is ever to tell callers apart plugs in here.

pub(super) use crate::listen::Peer;

/// Which of the two APIs was asked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Surface {
    Rest,
    Grpc,
}

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

    /// Who it was, for people who want to know: there are no names yet, so it is where they asked from.
    pub(super) fn described(peer: Option<Peer>, surface: Surface) -> String {
        let surface = match surface {
            Surface::Rest => "REST",
            Surface::Grpc => "gRPC",
        };
        let from = peer.map_or_else(|| "somebody".to_owned(), |Peer(address)| address.to_string());
        format!("{from} over {surface}")
    }
}
