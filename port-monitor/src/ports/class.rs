//! The classes of ports, and where the name of a service comes from.

/// The IANA port ranges (RFC 6335 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortClass {
    /// 0–1023.
    WellKnown,
    /// 1024–49151.
    Registered,
    /// 49152–65535.
    Dynamic,
}

/// Where a service name comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceOrigin {
    /// A name the policy file defines.
    Policy,
    /// What usually runs there, though IANA has another name or none.
    DeFacto,
    /// The IANA registry.
    Iana,
}

impl ServiceOrigin {
    /// The origin as tables and JSON spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::DeFacto => "de-facto",
            Self::Iana => "iana",
        }
    }
}

/// What the IANA registry says of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceStatus {
    /// Assigned to a service.
    Assigned,
    /// Reserved by IANA.
    Reserved,
    /// Not assigned.
    Unassigned,
}
