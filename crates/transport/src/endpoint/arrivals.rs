//! Connections that are made to an endpoint, and all of its connections as its credentials change.

use super::{HANDSHAKE_LIMIT, Quic};
use crate::certs::{Credentials, CurrentCredentials, Revoked};
use crate::connection::Connection;
use crate::refusals::Refusals;
use crate::tls::{self, TlsError};
use crate::{Lane, settings};
use std::sync::{Arc, Mutex, Weak};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

/// How these lanes are served.
pub(super) fn serving(
    credentials: &Credentials,
    lanes: &[Lane],
) -> Result<quinn::ServerConfig, TlsError> {
    let crypto = Arc::new(tls::quic_server(credentials, lanes)?);
    let mut server = quinn::ServerConfig::with_crypto(crypto);
    server.transport_config(settings::listening());
    Ok(server)
}

/// The connections of an endpoint that are open. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Open(Arc<Mutex<Vec<Weak<Quic>>>>);

/// Why a connection ends whose certificate was shut out.
const SHUT_OUT: &str = "its certificate is shut out (`swirl certs revoke`)";

impl Open {
    /// Takes a connection in, unless its certificate was shut out while hands were shaken.
    pub fn take_in(
        &self,
        connection: Quic,
        credentials: &CurrentCredentials,
    ) -> Result<Arc<dyn Connection>, String> {
        let connection = Arc::new(connection);
        {
            let mut open = self.0.lock().expect("no holder panics");
            open.retain(|known| known.strong_count() > 0);
            open.push(Arc::downgrade(&connection));
        }
        // From here on a change closes it.
        if credentials.get().revoked().covers(&connection.certificate) {
            connection.close(SHUT_OUT);
            return Err(format!("{}: {SHUT_OUT}", connection.peer));
        }
        Ok(connection)
    }

    fn close_revoked(&self, revoked: &Revoked) {
        let open = self.0.lock().expect("no holder panics").clone();
        for connection in open.iter().filter_map(Weak::upgrade) {
            if revoked.covers(&connection.certificate) {
                tracing::warn!(node = %connection.peer, "A certificate was shut out: its connection ends.");
                connection.close(SHUT_OUT);
            }
        }
    }
}

/// Keeps an endpoint to the newest credentials.
pub(super) struct Follower {
    pub quic: quinn::Endpoint,
    pub lanes: Vec<Lane>,
    pub open: Open,
}

impl Follower {
    pub async fn follow(self, mut changes: watch::Receiver<Arc<Credentials>>) {
        while changes.changed().await.is_ok() {
            let credentials = changes.borrow_and_update().clone();
            if !self.lanes.is_empty() {
                match serving(&credentials, &self.lanes) {
                    Ok(server) => self.quic.set_server_config(Some(server)),
                    Err(error) => {
                        tracing::error!(%error, "The new certificate is of no use; the old one is shown.");
                    }
                }
            }
            self.open.close_revoked(credentials.revoked());
        }
    }
}

/// What is needed to take a connection.
#[derive(Clone)]
pub(super) struct Receiver {
    pub lanes: Vec<Lane>,
    pub credentials: CurrentCredentials,
    pub open: Open,
}

/// Takes connections, each in a task of its own.
pub(super) async fn receive(
    quic: quinn::Endpoint,
    receiver: Receiver,
    arrivals: mpsc::Sender<Arc<dyn Connection>>,
) {
    let refusals = Refusals::default();
    while let Some(incoming) = quic.accept().await {
        let Ok(place) = arrivals.clone().try_reserve_owned() else {
            incoming.refuse();
            continue;
        };
        let (receiver, refusals) = (receiver.clone(), refusals.clone());
        tokio::spawn(async move {
            let from = incoming.remote_address();
            match receiver.shake_hands(incoming).await {
                Ok(connection) => drop(place.send(connection)),
                Err(reason) => refusals.note(from, &reason),
            }
        });
    }
}

impl Receiver {
    async fn shake_hands(&self, incoming: quinn::Incoming) -> Result<Arc<dyn Connection>, String> {
        let done = tokio::time::timeout(HANDSHAKE_LIMIT, incoming).await;
        let quic = done
            .map_err(|_| "the handshake took too long".to_owned())?
            .map_err(|error| {
                tls::refusal(&error, &self.lanes).unwrap_or_else(|| error.to_string())
            })?;
        let protocol = quic
            .handshake_data()
            .and_then(|data| data.downcast::<quinn::crypto::rustls::HandshakeData>().ok())
            .and_then(|data| data.protocol);
        let lane = protocol.and_then(|protocol| Lane::of_alpn(&protocol));
        let lane = lane.ok_or("no lane was agreed on")?;
        let connection = Quic::of(quic, lane, Handle::current());
        let connection = connection.map_err(|error| error.to_string())?;
        self.open.take_in(connection, &self.credentials)
    }
}
