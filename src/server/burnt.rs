//! Revokes keys that came in clear, where the configuration says so (FA29).

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::gate::Exposed;
use crate::snapshot::change::Keeper;
use crate::store::KeyFilter;
use crate::store::Verb;
use crate::store::audit::Actor;
use crate::store::error::EXIT_UNAVAILABLE;

/// Keys that may wait to be revoked. Only who holds a key can send one, and one that has ended takes no place.
pub(crate) const WAITING_MAX: usize = 1024;

/// Revokes what comes, one after the other, until nobody can send any more.
pub(crate) async fn revoke(
    mut burnt: mpsc::Receiver<(Exposed, IpAddr)>,
    keeper: Arc<Keeper>,
    clock: Clock,
) {
    while let Some((exposed, client)) = burnt.recv().await {
        // The same key may have come again before its end was in force.
        if !lives(&keeper, &exposed) {
            continue;
        }
        let (keeper, clock) = (Arc::clone(&keeper), clock.clone());
        let work = move || revoke_one(&keeper, &clock, exposed, client);
        // A panic there is a bug of ours, and logged as any; the next key is not to wait for that.
        let _ = tokio::task::spawn_blocking(work).await;
    }
}

fn lives(keeper: &Keeper, exposed: &Exposed) -> bool {
    let snapshot = keeper.snapshot().load();
    let key = snapshot.key(&exposed.digest);
    key.is_some_and(|key| !key.status.is_final())
}

fn revoke_one(keeper: &Keeper, clock: &Clock, exposed: Exposed, client: IpAddr) {
    let verb = Verb::KeyRevokeMany(KeyFilter {
        keys: Some(vec![exposed.digest.hex()]),
        ..KeyFilter::default()
    });
    let (key_id, reason) = (exposed.key, "key_seen_in_plaintext");
    let actor = Actor::gateway(format!("key seen in clear from {client}"));
    match keeper.execute_as(&verb, &actor, clock.now().wall) {
        Ok(_) => tracing::warn!(
            act = "key-revoke", %key_id, reason, %client,
            "this key was sent in clear and is revoked; tell its owner, and make a new one"
        ),
        Err(error) if error.exit == EXIT_UNAVAILABLE => {
            tracing::error!(act = "key-revoke", %key_id, reason, %client, %error, "this key was sent in clear");
        }
        Err(error) => {
            tracing::error!(act = "key-revoke", %key_id, reason, %client, %error, "this key was sent in clear and could not be revoked");
        }
    }
}
