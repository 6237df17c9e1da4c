from .check import DataCheck as DataCheck, check_data as check_data
