//! The routes of keys. What a body holds may be a passphrase: a body that is not understood is not repeated in the answer.
use super::error::Failure;
use super::routes::{Shared, on};
use crate::agent::Agent;
use crate::error::{Error, Kind};
use crate::model::Key;
use crate::params::{CreateKey, DestroyKey, Dry, RotateKey, UnlockKey};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};

type Answer<T> = Result<Json<T>, Failure>;
type Body<T> = Result<Json<T>, JsonRejection>;
type Asked<T> = Result<Query<T>, QueryRejection>;

/// The routes of keys.
pub(super) fn router() -> Router<Shared> {
    Router::new()
        .route("/v1/keys", get(list_keys).post(create_key))
        .route("/v1/keys/{name}", get(show_key).delete(destroy_key))
        .route("/v1/keys/{name}/rotate", post(rotate_key))
        .route("/v1/keys/{name}/lock", post(lock_key))
        .route("/v1/keys/{name}/unlock", post(unlock_key))
}

fn body<T>(body: Body<T>) -> Result<T, Failure> {
    let refused = |_| Failure(Error::general(Kind::Invalid, "the request's body is not understood"));
    body.map(|Json(body)| body).map_err(refused)
}

/// All keys.
#[utoipa::path(get, path = "/v1/keys", responses((status = 200, body = Vec<Key>)))]
pub(super) async fn list_keys(State(shared): State<Shared>) -> Answer<Vec<Key>> {
    Ok(Json(on(&shared, Agent::list_keys).await?))
}

/// Makes a key.
#[utoipa::path(post, path = "/v1/keys", request_body = CreateKey, responses((status = 200, body = Key)))]
pub(super) async fn create_key(
    State(shared): State<Shared>,
    dry: Asked<Dry>,
    asked: Body<CreateKey>,
) -> Answer<Key> {
    let (dry, params) = (dry?.dry_run, body(asked)?);
    Ok(Json(on(&shared, move |agent| agent.create_key(&params, dry)).await?))
}

/// One key.
#[utoipa::path(get, path = "/v1/keys/{name}", responses((status = 200, body = Key)))]
pub(super) async fn show_key(State(shared): State<Shared>, Path(name): Path<String>) -> Answer<Key> {
    Ok(Json(on(&shared, move |agent| agent.show_key(&name)).await?))
}

/// Destroys a key for ever, and with it whatever its groups hold.
#[utoipa::path(delete, path = "/v1/keys/{name}",
    params(("force" = Option<bool>, Query, description = "also while volumes that need it are attached")),
    responses((status = 200, body = Key)))]
pub(super) async fn destroy_key(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    query: Asked<DestroyKey>,
) -> Answer<Key> {
    let params = query?.0;
    let _hold = shared.agent.hold_pool(None).await?;
    Ok(Json(on(&shared, move |agent| agent.destroy_key(&name, params)).await?))
}

/// Gives a key a new version, wraps the secrets of its groups by that, and forgets the old one.
#[utoipa::path(post, path = "/v1/keys/{name}/rotate", request_body = RotateKey,
    responses((status = 200, body = Key)))]
pub(super) async fn rotate_key(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    dry: Asked<Dry>,
    asked: Body<RotateKey>,
) -> Answer<Key> {
    let (dry, params) = (dry?.dry_run, body(asked)?);
    Ok(Json(on(&shared, move |agent| agent.rotate_key(&name, &params, dry)).await?))
}

/// Forgets what a passphrase unlocked.
#[utoipa::path(post, path = "/v1/keys/{name}/lock", responses((status = 200, body = Key)))]
pub(super) async fn lock_key(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    dry: Asked<Dry>,
) -> Answer<Key> {
    let dry = dry?.dry_run;
    Ok(Json(on(&shared, move |agent| agent.lock_key(&name, dry)).await?))
}

/// Unlocks a key by its passphrase.
#[utoipa::path(post, path = "/v1/keys/{name}/unlock", request_body = UnlockKey,
    responses((status = 200, body = Key)))]
pub(super) async fn unlock_key(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    dry: Asked<Dry>,
    asked: Body<UnlockKey>,
) -> Answer<Key> {
    let (dry, params) = (dry?.dry_run, body(asked)?);
    Ok(Json(on(&shared, move |agent| agent.unlock_key(&name, &params, dry)).await?))
}
