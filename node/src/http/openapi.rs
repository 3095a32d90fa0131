//! The OpenAPI document, made from the handlers and the types themselves.
use axum::Json;
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(
    info(title = "Plinth", description = "Crash-safe mirrored block storage: the agent's control socket."),
    paths(
        super::routes::status,
        super::routes::stop_agent,
        super::routes::list_pools,
        super::routes::create_pool,
        super::routes::show_pool,
        super::routes::set_pool,
        super::routes::delete_pool,
        super::routes::list_drives,
        super::routes::add_drives,
        super::routes::show_drive,
        super::routes::offline_drive,
        super::routes::online_drive,
        super::routes::fail_drive,
        super::routes::evacuate_drive,
        super::routes::remove_drive,
        super::routes::replace_drive,
        super::routes::rebalance_pool,
        super::routes::stop_rebalance,
        super::routes::export_pool,
        super::routes::history,
        super::routes::importable,
        super::routes::import_pool,
        super::routes::wipe_drive,
        super::routes::list_volumes,
        super::routes::create_volume,
        super::routes::show_volume,
        super::routes::set_volume,
        super::routes::delete_volume,
        super::routes::resize_volume,
        super::routes::rename_volume,
        super::routes::attach_volume,
        super::routes::detach_volume,
        super::routes::upgrade_volume,
        super::routes::rekey,
        super::routes::scrub,
        super::routes::start_scrub,
        super::routes::stop_scrub,
        super::routes::pool_scrub,
        super::routes::start_pool_scrub,
        super::routes::stop_pool_scrub,
        super::groups::list_groups,
        super::groups::create_group,
        super::groups::show_group,
        super::groups::delete_group,
        super::keys::list_keys,
        super::keys::create_key,
        super::keys::show_key,
        super::keys::destroy_key,
        super::keys::rotate_key,
        super::keys::lock_key,
        super::keys::unlock_key,
        super::routes::support_bundle,
        super::routes::events,
        super::routes::healthz,
        super::routes::readyz
    ),
    components(schemas(crate::error::ErrorBody))
)]
struct Document;

/// Answers with the document.
pub async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}
