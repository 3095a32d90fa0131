//! The routes of groups.
use super::error::Failure;
use super::routes::{Answer, Asked, Body, Shared, on};
use crate::agent::Agent;
use crate::model::Group;
use crate::params::{CreateGroup, Dry};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};

/// The routes of groups.
pub(super) fn router() -> Router<Shared> {
    Router::new()
        .route("/v1/groups", get(list_groups).post(create_group))
        .route("/v1/groups/{name}", get(show_group).delete(delete_group))
}

/// All groups, with and without a volume.
#[utoipa::path(get, path = "/v1/groups", responses((status = 200, body = Vec<Group>)))]
pub(super) async fn list_groups(State(shared): State<Shared>) -> Answer<Vec<Group>> {
    Ok(Json(on(&shared, Agent::list_groups).await?))
}

/// Makes a group without a volume.
#[utoipa::path(post, path = "/v1/groups", request_body = CreateGroup, responses((status = 200, body = Group)))]
pub(super) async fn create_group(
    State(shared): State<Shared>,
    dry: Asked<Dry>,
    body: Body<CreateGroup>,
) -> Answer<Group> {
    let (dry, params) = (dry?.dry_run, body?.0);
    Ok(Json(on(&shared, move |agent| agent.create_group(&params, dry)).await?))
}

/// One group.
#[utoipa::path(get, path = "/v1/groups/{name}", responses((status = 200, body = Group)))]
pub(super) async fn show_group(State(shared): State<Shared>, Path(name): Path<String>) -> Answer<Group> {
    Ok(Json(on(&shared, move |agent| agent.show_group(&name)).await?))
}

/// Deletes a group without a volume.
#[utoipa::path(delete, path = "/v1/groups/{name}", responses((status = 204)))]
pub(super) async fn delete_group(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    dry: Asked<Dry>,
) -> Result<StatusCode, Failure> {
    let dry = dry?.dry_run;
    on(&shared, move |agent| agent.delete_group(&name, dry)).await?;
    Ok(StatusCode::NO_CONTENT)
}
