//! Teamster's wire contracts, generated from `proto/`. No logic lives here: each side converts these
//! messages to its own words at its edge.

/// Coordinator and agents: one session stream per agent.
pub mod agent {
    /// Version 1 of the contract.
    #[allow(missing_docs, reason = "generated; the .proto file carries the documentation")]
    pub mod v1 {
        tonic::include_proto!("teamster.agent.v1");
    }
}

/// The Task Execution Service, as clients see it.
pub mod tes {
    /// Version 1 of the contract.
    #[allow(missing_docs, reason = "generated; the .proto file carries the documentation")]
    pub mod v1 {
        tonic::include_proto!("tes.v1");

        /// The contract in its compiled form, for clients that ask the server for it.
        pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("tes.v1");
    }
}
