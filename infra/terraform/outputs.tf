output "buckets" {
  description = "The buckets' addresses, for the commands of infra/README.md."
  value       = { for name, bucket in google_storage_bucket.bucket : name => bucket.url }
}

output "images" {
  description = "The beginning of the images' names."
  value       = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.repository_id}"
}

output "accounts" {
  description = "The service accounts' addresses, by their work."
  value       = { for name, account in google_service_account.account : name => account.email }
}
