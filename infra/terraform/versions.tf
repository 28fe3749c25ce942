# The state is in a bucket of its own, made once by hand (infra/README.md, step 2). Its name is given by
# `terraform init -backend-config=bucket=PROJECT-cadenza-terraform`, because a backend block takes no variables.
terraform {
  required_version = ">= 1.6"

  backend "gcs" {
    prefix = "cadenza"
  }

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.0, < 8.0"
    }
  }
}

provider "google" {
  project = var.project
  region  = var.region

  # Budgets belong to a billing account, not to a project: their API needs the project that pays for the call.
  billing_project       = var.project
  user_project_override = true
}
