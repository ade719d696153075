//! The thin shell: one netlink socket, one question at a time. What is said is in `message.rs`.
//!
//! Bound: a reply is read in 64 KiB datagrams, a silent kernel is waited for 5 s at a time.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::RedirectError;
use super::message::{self, InstalledChain, Reply, Transaction};

/// A socket to this network namespace's nf_tables.
pub(super) struct Kernel {
    socket: OwnedFd,
}

impl Kernel {
    pub(super) fn open() -> Result<Self, RedirectError> {
        let open = || {
            let socket =
                socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
            Ok(Self { socket })
        };
        open().map_err(|errno| match errno {
            Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT => RedirectError::NoKernelSupport { errno },
            errno => RedirectError::Socket { errno },
        })
    }

    /// Makes `transaction` happen: all of it, or nothing and an error.
    pub(super) fn commit(&self, transaction: &Transaction) -> Result<(), RedirectError> {
        self.send(&transaction.bytes)?;
        loop {
            for reply in self.receive()? {
                if let Reply::Result { sequence, errno } = reply {
                    refused(errno)?;
                    if sequence == transaction.acknowledged_by {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Whether our table is there.
    pub(super) fn has_table(&self) -> Result<bool, RedirectError> {
        self.send(&message::get_table())?;
        let mut there = false;
        loop {
            for reply in self.receive()? {
                match reply {
                    Reply::Table => there = true,
                    Reply::Result { errno, .. } if errno == Errno::ENOENT as i32 => return Ok(false),
                    Reply::Result { errno, .. } => return refused(errno).map(|()| there),
                    _ => {}
                }
            }
        }
    }

    /// Our table's chains with their rules, in the kernel's order.
    pub(super) fn chains(&self) -> Result<Vec<InstalledChain>, RedirectError> {
        let mut chains = Vec::new();
        self.dump(&message::dump_chains(), |reply| {
            if let Reply::Chain(chain) = reply {
                chains.push(chain);
            }
        })?;
        self.dump(&message::dump_rules(), |reply| {
            if let Reply::Rule(rule) = reply
                && let Some(chain) = chains.iter_mut().find(|chain| chain.name == rule.chain)
            {
                chain.push(rule);
            }
        })?;
        Ok(chains)
    }

    fn dump(&self, question: &[u8], mut each: impl FnMut(Reply)) -> Result<(), RedirectError> {
        self.send(question)?;
        loop {
            for reply in self.receive()? {
                match reply {
                    Reply::Done => return Ok(()),
                    Reply::Result { errno, .. } => refused(errno)?,
                    other => each(other),
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), RedirectError> {
        let kernel = NetlinkAddr::new(0, 0);
        match sendto(self.socket.as_raw_fd(), bytes, &kernel, MsgFlags::empty()) {
            Ok(_) => Ok(()),
            Err(errno) => refused(errno as i32),
        }
    }

    fn receive(&self) -> Result<Vec<Reply>, RedirectError> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => return Ok(message::read(buffer.get(..length).unwrap_or_default())),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(RedirectError::Silent),
                Err(errno) => return Err(RedirectError::Socket { errno }),
            }
        }
    }
}

/// What an errno of nf_tables means for whoever deploys.
fn refused(errno: i32) -> Result<(), RedirectError> {
    match Errno::from_raw(errno) {
        _ if errno == 0 => Ok(()),
        Errno::EPERM | Errno::EACCES => Err(RedirectError::NotPermitted),
        errno @ (Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT) => {
            Err(RedirectError::NoKernelSupport { errno })
        }
        errno => Err(RedirectError::Refused { errno }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_says_what_to_do_about_it() {
        for (errno, hint) in [
            (Errno::EPERM, "NET_ADMIN"),
            (Errno::ENOENT, "nft_redir"),
            (Errno::EOPNOTSUPP, "nft_chain_nat"),
            (Errno::EINVAL, "Invalid argument"),
        ] {
            let message = refused(errno as i32).unwrap_err().to_string();
            assert!(message.contains(hint), "{errno}: {message}");
        }
        assert!(refused(0).is_ok());
    }
}
