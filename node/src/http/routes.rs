//! The routes. Each handler takes its input apart, calls one verb of the agent on a thread that may block, and
//! answers with what the matching GET would show.
use super::error::{Failure, not_found};
use crate::agent::Agent;
use crate::catalogue::{DriveState, Errand, EventRecord, HistoryRecord};
use crate::error::{Error, Kind, Result};
use crate::model::{Drive, Importable, Pool, PoolScrub, Scrub, Status, Volume};
use crate::params::{
    AddDrives, AttachVolume, CreatePool, CreateVolume, Dry, EventsQuery, ImportPool, RenameVolume,
    ReplaceDrive, ResizeVolume, Set, StopAgent, UpgradeVolume, WipeDrive,
};
use crate::protocol::Request;
use crate::steps::{blocking, to_its_end};
use crate::supervise::Phase;
use crate::support::Entry;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use std::sync::Arc;
use tokio::sync::watch;

/// What handlers share.
#[derive(Clone)]
pub struct Shared {
    /// The agent.
    pub agent: Arc<Agent>,
    /// Ends the agent.
    pub stop: watch::Sender<bool>,
}

pub(super) type Answer<T> = std::result::Result<Json<T>, Failure>;
pub(super) type Body<T> = std::result::Result<Json<T>, JsonRejection>;
pub(super) type Asked<T> = std::result::Result<Query<T>, QueryRejection>;

/// All routes.
pub fn router(agent: Arc<Agent>, stop: watch::Sender<bool>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/agent/stop", post(stop_agent))
        .route("/v1/pools", get(list_pools).post(create_pool))
        .route("/v1/pools/{name}", get(show_pool).patch(set_pool).delete(delete_pool))
        .route("/v1/pools/{name}/drives", get(list_drives).post(add_drives))
        .route("/v1/pools/{name}/drives/{drive}", get(show_drive))
        .route("/v1/pools/{name}/drives/{drive}/offline", post(offline_drive))
        .route("/v1/pools/{name}/drives/{drive}/online", post(online_drive))
        .route("/v1/pools/{name}/drives/{drive}/fail", post(fail_drive))
        .route("/v1/pools/{name}/drives/{drive}/evacuate", post(evacuate_drive))
        .route("/v1/pools/{name}/drives/{drive}/remove", post(remove_drive))
        .route("/v1/pools/{name}/drives/{drive}/replace", post(replace_drive))
        .route("/v1/pools/{name}/rebalance", post(rebalance_pool).delete(stop_rebalance))
        .route("/v1/pools/{name}/scrub", get(pool_scrub).post(start_pool_scrub).delete(stop_pool_scrub))
        .route("/v1/pools/{name}/export", post(export_pool))
        .route("/v1/pools/{name}/history", get(history))
        .route("/v1/import", get(importable).post(import_pool))
        .route("/v1/drives/wipe", post(wipe_drive))
        .route("/v1/volumes", get(list_volumes).post(create_volume))
        .route("/v1/volumes/{name}", get(show_volume).patch(set_volume).delete(delete_volume))
        .route("/v1/volumes/{name}/resize", post(resize_volume))
        .route("/v1/volumes/{name}/rename", post(rename_volume))
        .route("/v1/volumes/{name}/attach", post(attach_volume))
        .route("/v1/volumes/{name}/detach", post(detach_volume))
        .route("/v1/volumes/{name}/upgrade", post(upgrade_volume))
        .route("/v1/volumes/{name}/rekey", post(rekey))
        .route("/v1/volumes/{name}/scrub", get(scrub).post(start_scrub).delete(stop_scrub))
        .merge(super::groups::router())
        .merge(super::keys::router())
        .route("/v1/events", get(events))
        .route("/v1/support-bundle", get(support_bundle))
        .route("/v1/openapi.json", get(super::openapi::document))
        .route("/metrics", get(super::metrics::text))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(not_found)
        .with_state(Shared { agent, stop })
}

/// What the port for metrics shows: nothing that changes anything, no name but those of pools and volumes.
pub fn metrics_router(agent: Arc<Agent>, stop: watch::Sender<bool>) -> Router {
    Router::new()
        .route("/metrics", get(super::metrics::text))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(not_found)
        .with_state(Shared { agent, stop })
}

/// Runs a verb on a thread that may block.
pub(super) async fn on<T: Send + 'static>(
    shared: &Shared,
    verb: impl FnOnce(&Agent) -> Result<T> + Send + 'static,
) -> std::result::Result<T, Failure> {
    let agent = shared.agent.clone();
    Ok(blocking(move || verb(&agent)).await?)
}

/// The process lives, and its catalogue takes changes.
#[utoipa::path(get, path = "/healthz", responses((status = 200, description = "alive"),
    (status = 503, description = "the catalogue cannot be written; it is tried on")))]
pub(super) async fn healthz(State(shared): State<Shared>) -> std::result::Result<&'static str, Failure> {
    on(&shared, |agent| agent.store.check().map_err(|error| Error { kind: Kind::NotHealthy, ..error }))
        .await?;
    Ok("ok\n")
}

/// The agent can take requests: its catalogue answers.
#[utoipa::path(get, path = "/readyz", responses((status = 200, description = "ready")))]
pub(super) async fn readyz(State(shared): State<Shared>) -> std::result::Result<&'static str, Failure> {
    on(&shared, |agent| agent.list_pools()).await?;
    Ok("ok\n")
}

/// Everything at a glance.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Status)))]
pub(super) async fn status(State(shared): State<Shared>) -> Answer<Status> {
    shared.agent.supervisor.refresh(None).await;
    Ok(Json(on(&shared, Agent::view_status).await?))
}

/// Ends the agent; with `all`, detaches every volume first.
#[utoipa::path(post, path = "/v1/agent/stop", request_body = StopAgent, responses((status = 202)))]
pub(super) async fn stop_agent(
    State(shared): State<Shared>,
    body: Body<StopAgent>,
) -> std::result::Result<StatusCode, Failure> {
    if body?.all {
        shared.agent.detach_all().await?;
    }
    shared.stop.send_replace(true);
    Ok(StatusCode::ACCEPTED)
}

/// All pools.
#[utoipa::path(get, path = "/v1/pools", responses((status = 200, body = Vec<Pool>)))]
pub(super) async fn list_pools(State(shared): State<Shared>) -> Answer<Vec<Pool>> {
    shared.agent.supervisor.refresh(None).await;
    Ok(Json(on(&shared, Agent::list_pools).await?))
}

/// Makes a pool of drives.
#[utoipa::path(post, path = "/v1/pools", request_body = CreatePool, responses((status = 200, body = Pool)))]
pub(super) async fn create_pool(
    State(shared): State<Shared>,
    dry: Asked<Dry>,
    body: Body<CreatePool>,
) -> Answer<Pool> {
    let (dry, params) = (dry?.dry_run, body?.0);
    Ok(Json(on(&shared, move |agent| agent.create_pool(&params, dry)).await?))
}

/// One pool.
#[utoipa::path(get, path = "/v1/pools/{name}", responses((status = 200, body = Pool)))]
pub(super) async fn show_pool(State(shared): State<Shared>, Path(name): Path<String>) -> Answer<Pool> {
    shared.agent.supervisor.refresh(None).await;
    Ok(Json(on(&shared, move |agent| agent.show_pool(&name)).await?))
}

/// Changes a property of a pool.
#[utoipa::path(patch, path = "/v1/pools/{name}", request_body = Set, responses((status = 200, body = Pool)))]
pub(super) async fn set_pool(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    dry: Asked<Dry>,
    body: Body<Set>,
) -> Answer<Pool> {
    let (dry, set) = (dry?.dry_run, body?.0);
    Ok(Json(on(&shared, move |agent| agent.set_pool(&name, &set.key, &set.value, dry)).await?))
}

/// Deletes a pool without volumes and groups.
#[utoipa::path(delete, path = "/v1/pools/{name}", responses((status = 204)))]
pub(super) async fn delete_pool(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    dry: Asked<Dry>,
) -> std::result::Result<StatusCode, Failure> {
    let dry = dry?.dry_run;
    on(&shared, move |agent| agent.delete_pool(&name, dry)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The drives of a pool.
#[utoipa::path(get, path = "/v1/pools/{name}/drives", responses((status = 200, body = Vec<Drive>)))]
pub(super) async fn list_drives(
    State(shared): State<Shared>,
    Path(name): Path<String>,
) -> Answer<Vec<Drive>> {
    shared.agent.supervisor.refresh(None).await;
    Ok(Json(on(&shared, move |agent| Ok(agent.show_pool(&name)?.drives)).await?))
}

/// One drive of a pool, by id or path.
#[utoipa::path(get, path = "/v1/pools/{name}/drives/{drive}", responses((status = 200, body = Drive)))]
pub(super) async fn show_drive(
    State(shared): State<Shared>,
    Path((name, drive)): Path<(String, String)>,
) -> Answer<Drive> {
    shared.agent.supervisor.refresh(None).await;
    Ok(Json(on(&shared, move |agent| agent.show_drive(&name, &drive)).await?))
}

/// Takes a drive out of use; answers when nothing holds it.
#[utoipa::path(post, path = "/v1/pools/{name}/drives/{drive}/offline", responses((status = 200, body = Drive)))]
pub(super) async fn offline_drive(
    State(shared): State<Shared>,
    Path((name, drive)): Path<(String, String)>,
    dry: Asked<Dry>,
) -> Answer<Drive> {
    put_drive_out(shared, name, drive, DriveState::Offline, dry?.dry_run).await
}

/// Declares a drive broken; answers when nothing holds it.
#[utoipa::path(post, path = "/v1/pools/{name}/drives/{drive}/fail", responses((status = 200, body = Drive)))]
pub(super) async fn fail_drive(
    State(shared): State<Shared>,
    Path((name, drive)): Path<(String, String)>,
    dry: Asked<Dry>,
) -> Answer<Drive> {
    put_drive_out(shared, name, drive, DriveState::Failed, dry?.dry_run).await
}

async fn put_drive_out(
    shared: Shared,
    name: String,
    drive: String,
    wanted: DriveState,
    dry: bool,
) -> Answer<Drive> {
    let verb = move |agent: Arc<Agent>| async move { agent.put_drive_out(&name, &drive, wanted, dry).await };
    Ok(Json(detached(shared, verb).await?))
}

/// Brings a drive back; answers when the groups that miss it are getting it.
#[utoipa::path(post, path = "/v1/pools/{name}/drives/{drive}/online", responses((status = 200, body = Drive)))]
pub(super) async fn online_drive(
    State(shared): State<Shared>,
    Path((name, drive)): Path<(String, String)>,
    dry: Asked<Dry>,
) -> Answer<Drive> {
    let dry = dry?.dry_run;
    let verb = move |agent: Arc<Agent>| async move { agent.bring_drive_back(&name, &drive, dry).await };
    Ok(Json(detached(shared, verb).await?))
}

/// Empties a drive; answers when that has begun (`tasks` of the pool tell how far it is).
#[utoipa::path(post, path = "/v1/pools/{name}/drives/{drive}/evacuate", responses((status = 200, body = Drive)))]
pub(super) async fn evacuate_drive(
    State(shared): State<Shared>,
    Path((name, drive)): Path<(String, String)>,
    dry: Asked<Dry>,
) -> Answer<Drive> {
    empty_drive(shared, name, drive, Errand::Evacuate, dry?.dry_run).await
}

/// Empties a drive and takes it out of its pool; answers when that has begun.
#[utoipa::path(post, path = "/v1/pools/{name}/drives/{drive}/remove", responses((status = 200, body = Drive)))]
pub(super) async fn remove_drive(
    State(shared): State<Shared>,
    Path((name, drive)): Path<(String, String)>,
    dry: Asked<Dry>,
) -> Answer<Drive> {
    empty_drive(shared, name, drive, Errand::Remove, dry?.dry_run).await
}

async fn empty_drive(
    shared: Shared,
    name: String,
    drive: String,
    errand: Errand,
    dry: bool,
) -> Answer<Drive> {
    let verb = move |agent: Arc<Agent>| async move { agent.empty_drive(&name, &drive, errand, dry).await };
    Ok(Json(detached(shared, verb).await?))
}

/// Has a drive take another one's place, which then leaves the pool; answers with the new one when that has begun.
#[utoipa::path(post, path = "/v1/pools/{name}/drives/{drive}/replace", request_body = ReplaceDrive,
    responses((status = 200, body = Drive)))]
pub(super) async fn replace_drive(
    State(shared): State<Shared>,
    Path((name, drive)): Path<(String, String)>,
    dry: Asked<Dry>,
    body: Body<ReplaceDrive>,
) -> Answer<Drive> {
    let (dry, params) = (dry?.dry_run, body?.0);
    let verb = move |agent: Arc<Agent>| async move { agent.replace_drive(&name, &drive, params, dry).await };
    Ok(Json(detached(shared, verb).await?))
}

/// Spreads the volumes of a pool evenly over its drives; answers at once (`rebalancing` of the pool says whether it goes
/// on).
#[utoipa::path(post, path = "/v1/pools/{name}/rebalance", responses((status = 200, body = Pool)))]
pub(super) async fn rebalance_pool(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    dry: Asked<Dry>,
) -> Answer<Pool> {
    let dry = dry?.dry_run;
    Ok(Json(on(&shared, move |agent| agent.rebalance_pool(&name, true, dry)).await?))
}

/// Ends that behind the moves that are under way.
#[utoipa::path(delete, path = "/v1/pools/{name}/rebalance", responses((status = 200, body = Pool)))]
pub(super) async fn stop_rebalance(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    dry: Asked<Dry>,
) -> Answer<Pool> {
    let dry = dry?.dry_run;
    Ok(Json(on(&shared, move |agent| agent.rebalance_pool(&name, false, dry)).await?))
}

/// Adds drives to a pool.
#[utoipa::path(post, path = "/v1/pools/{name}/drives", request_body = AddDrives, responses((status = 200, body = Pool)))]
pub(super) async fn add_drives(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    dry: Asked<Dry>,
    body: Body<AddDrives>,
) -> Answer<Pool> {
    let (dry, params) = (dry?.dry_run, body?.0);
    Ok(Json(on(&shared, move |agent| agent.add_drives(&name, &params, dry)).await?))
}

/// Forgets a pool; its drives keep everything but groups without a volume.
#[utoipa::path(post, path = "/v1/pools/{name}/export", responses((status = 204)))]
pub(super) async fn export_pool(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    dry: Asked<Dry>,
) -> std::result::Result<StatusCode, Failure> {
    let dry = dry?.dry_run;
    let _hold = shared.agent.hold_pool(Some(name.clone())).await?;
    on(&shared, move |agent| agent.export_pool(&name, dry)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What was done to a pool.
#[utoipa::path(get, path = "/v1/pools/{name}/history", responses((status = 200, body = Vec<HistoryRecord>)))]
pub(super) async fn history(
    State(shared): State<Shared>,
    Path(name): Path<String>,
) -> Answer<Vec<HistoryRecord>> {
    let lines = on(&shared, move |agent| agent.history(&name)).await?;
    Ok(Json(lines))
}

/// Pools that could be imported.
#[utoipa::path(get, path = "/v1/import", responses((status = 200, body = Vec<Importable>)))]
pub(super) async fn importable(State(shared): State<Shared>) -> Answer<Vec<Importable>> {
    Ok(Json(on(&shared, |agent| agent.importable(&ImportPool::default())).await?))
}

/// Imports pools.
#[utoipa::path(post, path = "/v1/import", request_body = ImportPool, responses((status = 200, body = Vec<Pool>)))]
pub(super) async fn import_pool(
    State(shared): State<Shared>,
    dry: Asked<Dry>,
    body: Body<ImportPool>,
) -> Answer<Vec<Pool>> {
    let (dry, params) = (dry?.dry_run, body?.0);
    let _hold = shared.agent.hold_pool(None).await?;
    Ok(Json(on(&shared, move |agent| agent.import_pool(&params, dry)).await?))
}

/// Makes a drive of no pool empty.
#[utoipa::path(post, path = "/v1/drives/wipe", request_body = WipeDrive, responses((status = 204)))]
pub(super) async fn wipe_drive(
    State(shared): State<Shared>,
    dry: Asked<Dry>,
    body: Body<WipeDrive>,
) -> std::result::Result<StatusCode, Failure> {
    let (dry, params) = (dry?.dry_run, body?.0);
    on(&shared, move |agent| agent.wipe_drive(&params.drive, dry)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// All volumes.
#[utoipa::path(get, path = "/v1/volumes", responses((status = 200, body = Vec<Volume>)))]
pub(super) async fn list_volumes(State(shared): State<Shared>) -> Answer<Vec<Volume>> {
    shared.agent.supervisor.refresh(None).await;
    Ok(Json(on(&shared, Agent::list_volumes).await?))
}

/// Makes a volume.
#[utoipa::path(post, path = "/v1/volumes", request_body = CreateVolume, responses((status = 200, body = Volume)))]
pub(super) async fn create_volume(
    State(shared): State<Shared>,
    dry: Asked<Dry>,
    body: Body<CreateVolume>,
) -> Answer<Volume> {
    let (dry, params) = (dry?.dry_run, body?.0);
    Ok(Json(on(&shared, move |agent| agent.create_volume(&params, dry)).await?))
}

/// One volume.
#[utoipa::path(get, path = "/v1/volumes/{name}", responses((status = 200, body = Volume)))]
pub(super) async fn show_volume(State(shared): State<Shared>, Path(name): Path<String>) -> Answer<Volume> {
    shared.agent.supervisor.refresh(Some(&name)).await;
    Ok(Json(on(&shared, move |agent| agent.show_volume(&name)).await?))
}

/// Changes a property of a volume.
#[utoipa::path(patch, path = "/v1/volumes/{name}", request_body = Set, responses((status = 200, body = Volume)))]
pub(super) async fn set_volume(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    dry: Asked<Dry>,
    body: Body<Set>,
) -> Answer<Volume> {
    let (dry, set) = (dry?.dry_run, body?.0);
    Ok(Json(on(&shared, move |agent| agent.set_volume(&name, &set.key, &set.value, dry)).await?))
}

/// Deletes a detached volume.
#[utoipa::path(delete, path = "/v1/volumes/{name}", responses((status = 204)))]
pub(super) async fn delete_volume(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    dry: Asked<Dry>,
) -> std::result::Result<StatusCode, Failure> {
    let dry = dry?.dry_run;
    let _hold = shared.agent.hold(vec![name.clone()]).await?;
    on(&shared, move |agent| agent.delete_volume(&name, dry)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Grows a volume.
#[utoipa::path(post, path = "/v1/volumes/{name}/resize", request_body = ResizeVolume,
    responses((status = 200, body = Volume)))]
pub(super) async fn resize_volume(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    dry: Asked<Dry>,
    body: Body<ResizeVolume>,
) -> Answer<Volume> {
    let (dry, params) = (dry?.dry_run, body?.0);
    let volume = name.clone();
    let record = on(&shared, move |agent| agent.resize_record(&volume, &params, dry)).await?;
    let live = shared.agent.supervisor.live(&name);
    if !dry && record.attachment.is_some() && live.is_some_and(|live| live.phase == Phase::Serving) {
        // Should the target die now, the next one has the new size; so has one that is on its way.
        shared.agent.supervisor.ask(&name, Request::Resize { size_bytes: record.size_bytes }).await?;
    }
    show_volume(State(shared), Path(name)).await
}

/// Renames a detached volume.
#[utoipa::path(post, path = "/v1/volumes/{name}/rename", request_body = RenameVolume,
    responses((status = 200, body = Volume)))]
pub(super) async fn rename_volume(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    dry: Asked<Dry>,
    body: Body<RenameVolume>,
) -> Answer<Volume> {
    let (dry, params) = (dry?.dry_run, body?.0);
    let _hold = shared.agent.hold(vec![name.clone()]).await?;
    Ok(Json(on(&shared, move |agent| agent.rename_volume(&name, &params.name, dry)).await?))
}

/// Attaches a volume; answers when it is served.
#[utoipa::path(post, path = "/v1/volumes/{name}/attach", request_body = AttachVolume,
    responses((status = 200, body = Volume)))]
pub(super) async fn attach_volume(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    dry: Asked<Dry>,
    body: Body<AttachVolume>,
) -> Answer<Volume> {
    let (dry, params) = (dry?.dry_run, body?.0);
    Ok(Json(
        detached(shared, move |agent| async move { agent.attach_volume(&name, params, dry).await }).await?,
    ))
}

/// Detaches a volume; answers when its target is gone.
#[utoipa::path(post, path = "/v1/volumes/{name}/detach", responses((status = 200, body = Volume)))]
pub(super) async fn detach_volume(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    dry: Asked<Dry>,
) -> Answer<Volume> {
    let dry = dry?.dry_run;
    Ok(Json(detached(shared, move |agent| async move { agent.detach_volume(&name, dry).await }).await?))
}

/// Hands an attached volume to another binary, while it is used; answers when that serves.
#[utoipa::path(post, path = "/v1/volumes/{name}/upgrade", request_body = UpgradeVolume,
    responses((status = 200, body = Volume)))]
pub(super) async fn upgrade_volume(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    dry: Asked<Dry>,
    body: Body<UpgradeVolume>,
) -> Answer<Volume> {
    let (dry, params) = (dry?.dry_run, body?.0);
    Ok(Json(
        detached(shared, move |agent| async move { agent.upgrade_volume(&name, params, dry).await }).await?,
    ))
}

/// A new data key for the group of a volume, or a group: what is under older ones is written again.
#[utoipa::path(post, path = "/v1/volumes/{name}/rekey", responses((status = 200, body = Volume)))]
pub(super) async fn rekey(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    dry: Asked<Dry>,
) -> Answer<Volume> {
    let dry = dry?.dry_run;
    Ok(Json(detached(shared, move |agent| async move { agent.rekey_group(&name, dry).await }).await?))
}

/// The last scrub of a volume.
#[utoipa::path(get, path = "/v1/volumes/{name}/scrub", responses((status = 200, body = Scrub)))]
pub(super) async fn scrub(State(shared): State<Shared>, Path(name): Path<String>) -> Answer<Scrub> {
    shared.agent.supervisor.refresh(Some(&name)).await;
    Ok(Json(on(&shared, move |agent| agent.show_scrub(&name)).await?))
}

/// Begins a scrub, unless one is wanted already.
#[utoipa::path(post, path = "/v1/volumes/{name}/scrub", responses((status = 200, body = Scrub)))]
pub(super) async fn start_scrub(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    dry: Asked<Dry>,
) -> Answer<Scrub> {
    let dry = dry?.dry_run;
    Ok(Json(detached(shared, move |agent| async move { agent.start_scrub(&name, dry).await }).await?))
}

/// Ends a scrub where it is.
#[utoipa::path(delete, path = "/v1/volumes/{name}/scrub", responses((status = 200, body = Scrub)))]
pub(super) async fn stop_scrub(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    dry: Asked<Dry>,
) -> Answer<Scrub> {
    let dry = dry?.dry_run;
    Ok(Json(detached(shared, move |agent| async move { agent.stop_scrub(&name, dry).await }).await?))
}

/// The last scrubs of a pool's volumes.
#[utoipa::path(get, path = "/v1/pools/{name}/scrub", responses((status = 200, body = PoolScrub)))]
pub(super) async fn pool_scrub(State(shared): State<Shared>, Path(name): Path<String>) -> Answer<PoolScrub> {
    shared.agent.supervisor.refresh(None).await;
    Ok(Json(on(&shared, move |agent| agent.show_pool_scrub(&name)).await?))
}

/// Begins scrubs of all attached volumes of a pool, one after the other.
#[utoipa::path(post, path = "/v1/pools/{name}/scrub", responses((status = 200, body = PoolScrub)))]
pub(super) async fn start_pool_scrub(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    dry: Asked<Dry>,
) -> Answer<PoolScrub> {
    let dry = dry?.dry_run;
    Ok(Json(detached(shared, move |agent| async move { agent.start_pool_scrub(&name, dry).await }).await?))
}

/// Ends the scrubs of a pool's volumes.
#[utoipa::path(delete, path = "/v1/pools/{name}/scrub", responses((status = 200, body = PoolScrub)))]
pub(super) async fn stop_pool_scrub(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    dry: Asked<Dry>,
) -> Answer<PoolScrub> {
    let dry = dry?.dry_run;
    Ok(Json(detached(shared, move |agent| async move { agent.stop_pool_scrub(&name, dry).await }).await?))
}

/// Runs a verb to its end although its caller may hang up.
async fn detached<T, F>(shared: Shared, verb: impl FnOnce(Arc<Agent>) -> F) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    to_its_end(verb(shared.agent)).await
}

/// The agent's part of a support bundle: no data, no secrets.
#[utoipa::path(get, path = "/v1/support-bundle", responses((status = 200, body = Vec<Entry>)))]
pub(super) async fn support_bundle(State(shared): State<Shared>) -> Answer<Vec<Entry>> {
    shared.agent.supervisor.refresh(None).await;
    Ok(Json(on(&shared, |agent| Ok(agent.support())).await?))
}

/// What happened, oldest first. `after` is a cursor (the number of the last event that was seen) and `wait_ms` how
/// long to wait for the first one behind it; together they follow the events, also across restarts of the agent.
#[utoipa::path(get, path = "/v1/events",
    params(("since" = Option<String>, Query, description = "RFC 3339, or a length of time such as 10m"),
        ("after" = Option<u64>, Query, description = "only events with a higher number"),
        ("wait_ms" = Option<u64>, Query, description = "wait so long for the first event"),
        ("limit" = Option<usize>, Query, description = "so many at most, the oldest first")),
    responses((status = 200, body = Vec<EventRecord>)))]
pub(super) async fn events(
    State(shared): State<Shared>,
    query: Asked<EventsQuery>,
) -> Answer<Vec<EventRecord>> {
    let query = query?.0;
    let mut stopped = shared.stop.subscribe();
    let found = tokio::select! {
        found = shared.agent.events.wait(query) => found?,
        _ = stopped.wait_for(|stop| *stop) => Vec::new(),
    };
    Ok(Json(found))
}
